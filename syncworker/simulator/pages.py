"""The pages a user meets: choose who you are, see what is asked, decide.  Server-rendered, without scripts.

The content security policy lets a form lead to us and, after a decision, to the redirect URI of the request alone.
"""

import base64
import hashlib
from collections.abc import Iterable
from html import escape
from typing import Final
from urllib.parse import urlsplit

from syncworker.simulator.consents import Consent
from syncworker.simulator.ledger import Customer
from syncworker.standard.values import UAE

_STYLE: Final = """
:root{color-scheme:light dark;--ink:#14323a;--soft:#5b7479;
--line:#d5e0e1;--page:#eef4f3;--card:#fff;--go:#0b6e63;--on:#fff}
@media(prefers-color-scheme:dark){:root{--ink:#e3efee;--soft:#9fb6b8;
--line:#2d4549;--page:#0e1c1f;--card:#15282c;--go:#3fc4b2;--on:#06211e}}
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:36rem;margin:6vh auto;
padding:2rem;background:var(--card);border:1px solid var(--line);border-radius:14px}
header{display:flex;gap:.7rem;align-items:center;margin-bottom:1.2rem;color:var(--soft)}
header b{color:var(--ink)}
header span{padding:.1rem .6rem;border:1px solid var(--line);border-radius:99px;font-size:.8rem}
h1{font-size:1.35rem;margin:0 0 .6rem}h2{font-size:1rem;margin:1.4rem 0 .4rem}
ul{list-style:none;margin:0;padding:0}li{padding:.45rem 0;border-top:1px solid var(--line)}
label{display:flex;gap:.7rem;align-items:center}small{color:var(--soft)}
button{font:inherit;padding:.6rem 1.2rem;border-radius:9px;
border:1px solid var(--line);background:none;color:inherit;cursor:pointer}
button.go{background:var(--go);border-color:var(--go);color:var(--on);font-weight:600}
button.who{width:100%;text-align:left}footer{display:flex;gap:.7rem;margin-top:1.6rem}
input,button{accent-color:var(--go)}:focus-visible{outline:3px solid var(--go);outline-offset:2px}
"""
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

# what a user reads for each permission; codes without a sentence are shown as they are
_WORDS: Final = {
    "ReadAccountsBasic": "Your accounts: type, currency, status",
    "ReadAccountsDetail": "Your accounts in detail: numbers, names, opening dates",
    "ReadBalances": "Your balances",
    "ReadTransactionsBasic": "Your transactions: amounts and dates",
    "ReadTransactionsDetail": "Your transactions in detail: merchants, payees, references",
    "ReadFXTransactionsBasic": "Your payments in other currencies: amounts and rates",
    "ReadFXTransactionsDetail": "Your payments in other currencies, in detail",
    "ReadFXRemittanceCharges": "What your transfers abroad cost",
    "ReadBeneficiariesBasic": "Whom you can pay: kind and reference",
    "ReadBeneficiariesDetail": "Whom you can pay, with their accounts",
    "ReadDirectDebits": "Your direct debits",
    "ReadStandingOrdersBasic": "Your standing orders: amounts and dates",
    "ReadStandingOrdersDetail": "Your standing orders, with whom they pay",
    "ReadScheduledPaymentsBasic": "Your scheduled payments: amounts and dates",
    "ReadScheduledPaymentsDetail": "Your scheduled payments, with whom they pay",
    "ReadStatements": "Your statements",
    "ReadProduct": "Fees, rates and benefits of your accounts",
    "ReadProductFinanceRates": "The rates agreed with you on cards and finance",
    "ReadParty": "The legal name of each account's holders",
    "ReadPartyUser": "Your name, birth date, contact and address",
    "ReadPartyUserIdentity": "Your identity: Emirates ID, nationality, employer",
}


def headers(redirect_uri: str | None = None) -> dict[str, str]:
    """Security headers of a page; `redirect_uri` is where its form may end."""
    leads = "'self'"
    if redirect_uri:
        parts = urlsplit(redirect_uri)
        leads += f" {parts.scheme}://{parts.netloc}"
    return {
        "content-security-policy": (
            f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action {leads}; "
            "base-uri 'none'; frame-ancestors 'none'"
        ),
        "cache-control": "no-store",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }


def choose(action: str, customers: Iterable[tuple[str, str]]) -> bytes:
    """Who are you?  One button for each (login name, full name)."""
    buttons = "".join(
        f'<li><button class="who" name="user" value="{escape(user)}">'
        f"{escape(name)} <small>{escape(user)}</small></button></li>"
        for user, name in customers
    )
    return _page(
        "Log in",
        f"<h1>Log in</h1><p>This is a sandbox: choose who you are.</p>"
        f'<form method="post" action="{escape(action)}"><ul>{buttons}</ul></form>',
    )


def decide(action: str, consent: Consent, customer: Customer) -> bytes:
    """What is asked, of which accounts, until when; approve or decline."""
    asked = "".join(f"<li>{escape(_WORDS.get(code, code))}</li>" for code in sorted(consent.permissions))
    accounts = "".join(
        f'<li><label><input type="checkbox" name="account" value="{escape(one.account_id)}" checked>'
        f"<span>{escape(one.nickname or one.description)}<br>"
        f"<small>{escape(one.description)} · {escape(one.iban)}</small></span></label></li>"
        for one in customer.accounts
        if consent.fits(one)
    )
    until = consent.expires_at.astimezone(UAE).strftime("%d %B %Y, %H:%M")
    span = " ".join(
        f"{word} {day.isoformat()}" for word, day in (("from", consent.from_date), ("to", consent.to_date)) if day
    )
    behalf = consent.asked.get("OnBehalfOf", {})
    firm = behalf.get("TradingName") or behalf.get("LegalName")
    for_whom = f"<p>On behalf of {escape(firm)}.</p>" if firm else ""
    window = f"<h2>Transactions</h2><p>Booked {span}</p>" if span else ""
    return _page(
        "Share your data",
        f"<h1>{escape(customer.person.full_name)}, share your data?</h1>"
        "<p>A licensed provider asks to read, and never to change:</p>"
        f"{for_whom}<ul>{asked}</ul>{window}<h2>Until</h2><p>{escape(until)} <small>UAE time</small></p>"
        f'<form method="post" action="{escape(action)}"><h2>From these accounts</h2><ul>{accounts}</ul>'
        '<footer><button class="go" name="decision" value="approve">Approve</button>'
        '<button name="decision" value="approve_first">Approve, and ask a second authoriser</button>'
        '<button name="decision" value="decline">Decline</button></footer></form>',
    )


def own_consents(action: str, user: str, consents: Iterable[tuple[Consent, Iterable[tuple[str, str]]]]) -> bytes:
    """A customer's consents, each with its buttons (act, what it says)."""
    items = "".join(
        f"<li><b>{escape(consent.status)}</b> <small>until "
        f"{consent.expires_at.astimezone(UAE).strftime('%d %B %Y')} · {escape(consent.consent_id)}</small>"
        f'<form method="post" action="{escape(action)}">'
        f'<input type="hidden" name="consent" value="{escape(consent.consent_id)}"><footer>'
        + "".join(f'<button name="act" value="{escape(act)}">{escape(says)}</button>' for act, says in buttons)
        + "</footer></form></li>"
        for consent, buttons in consents
    )
    listed = f"<ul>{items}</ul>" if items else "<p>You share your data with nobody.</p>"
    return _page("Your consents", f"<h1>Whom {escape(user)} shares data with</h1>{listed}")


def sorry(message: str) -> bytes:
    """A page that says why this cannot go on."""
    return _page("Not possible", f"<h1>This cannot go on</h1><p>{escape(message)}</p>")


def _page(title: str, content: str) -> bytes:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)} · Sandbox LFI</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{_STYLE}</style></head>'
        f"<body><main><header><b>Sandbox LFI</b><span>not a real bank</span></header>{content}</main></body></html>"
    ).encode()
