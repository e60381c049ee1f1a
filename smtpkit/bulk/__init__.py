"""Many mails, for either client: an intake, and lanes that work it off, each over one session.

``SyncClient`` drives one lane by hand; ``Client`` has as many as pay, in a task group (``outcomes.py``).
"""

from smtpkit.bulk.intake import Intake, Iterated, Mail, mail_of, prepared
from smtpkit.bulk.lane import Lane

__all__ = ("Intake", "Iterated", "Lane", "Mail", "mail_of", "prepared")
