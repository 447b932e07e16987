"""What ends a request to a journal; `structdecode.backends.openai.errors` has what an API says, and what ends the others."""


class NotInJournal(Exception):
    """The reply to a request is not in the journal, and nothing is to be sent."""
