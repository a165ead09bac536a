"""The steps that a user takes, each one function: record, score, choose, verify, report."""
