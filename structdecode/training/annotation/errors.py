"""What ends a request, a record or the run; `structdecode.backends.openai.errors` has what an API says."""


class Stopped(Exception):
    """No more requests are to be sent: the cost limit is reached, or the user wants to stop."""


class Unanswered(Exception):
    """The API did not answer after many tries. The record stays undecided; a later start asks again."""


class NotInJournal(Exception):
    """The reply to a request is not in the journal, and nothing is to be sent."""
