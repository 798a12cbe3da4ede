"""What the application can listen to. Receivers run after the books are written; one that raises loses nothing.

    @receiver(ai_call_settled)
    def bill(sender, call, **kwargs): ...

They run in the caller's thread or, for asynchronous callers, as Django's `Signal.asend_robust` runs them.
"""

from django.dispatch import Signal

# A request to a vendor is settled. `call`: a `src.ai.services.ledger.meter.Settled`, with `facts` and `entry`.
ai_call_settled = Signal()

# 80 % of a limit are used up; once for each period. `standing`: limit, requests and cost; `call`, the one that did it.
ai_limit_near = Signal()

# A vendor refused a key, or its account is empty. `provider_slug`, `key_source`, `admin_id`, and the error's `code`.
ai_key_failing = Signal()
