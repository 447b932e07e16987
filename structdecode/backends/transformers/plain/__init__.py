"""One request at a time, in the plainest form: the specification that the faster path is tested against."""
