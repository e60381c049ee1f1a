"""Many mails, for either client: an intake, and lanes that work it off, each over one session.

``SyncClient`` drives one lane by hand; ``Client`` has as many as pay, in a task group (``outcomes.py``).
"""

from smtpkit.bulk.feed import Feed, Iterated, Nothing, feed_of
from smtpkit.bulk.intake import Intake, Mail, mail_of, prepared
from smtpkit.bulk.lane import Lane

__all__ = ("Feed", "Intake", "Iterated", "Lane", "Mail", "Nothing", "feed_of", "mail_of", "prepared")
