"""A FAPI 2.0 server that nobody here wrote: Authlib's authorisation server, arranged as unlike the sandbox as may be.

Everything that judges our requests is Authlib's: client authentication by assertion (RFC 7523), the signed request
object (RFC 9101), PKCE (RFC 7636), codes, refresh and client credentials (RFC 6749), the issuer in redirects
(RFC 9207) and ID tokens (OpenID Connect).  This module stores what it wants stored, and opens the doors: an issuer with
a path, its discovery document elsewhere, and the token endpoint, PAR and the data on ports of their own, by the name
`localhost`, behind a private CA, with mutual TLS on all but the issuer's.  Authlib has no PAR; ours keeps the request
object and lets Authlib fetch it by its `request_uri`.
"""

import json
import secrets
import ssl
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

from authlib.oauth2.rfc6749 import (  # type: ignore[import-untyped]  # Authlib ships no types
    AuthorizationServer,
    InvalidClientError,
    OAuth2Error,
    OAuth2Request,
    grants,
)
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload  # type: ignore[import-untyped]
from authlib.oauth2.rfc6750 import BearerTokenGenerator  # type: ignore[import-untyped]
from authlib.oauth2.rfc7523 import JWTBearerClientAssertion  # type: ignore[import-untyped]
from authlib.oauth2.rfc7636 import CodeChallenge  # type: ignore[import-untyped]
from authlib.oauth2.rfc9101 import JWTAuthenticationRequest  # type: ignore[import-untyped]
from authlib.oauth2.rfc9207 import IssuerParameter  # type: ignore[import-untyped]
from authlib.oidc.core import OpenIDCode, UserInfo  # type: ignore[import-untyped]
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, RSAKey

from syncworker.simulator.servers import Listener, bind
from tests.lfi.raw_bank import BASE_PATH, CLIENT_ID, REDIRECT_URI, Identities

METHOD: Final = "private_key_jwt"
SERVER_KID: Final = "realm-2026"
OUR_KID: Final = "registered-here"
EXPIRES_IN: Final = 300


@dataclass(slots=True)
class Client:
    """The registration, as Authlib asks for it."""

    client_id: str
    jwks: dict[str, Any]
    id_token_signed_response_alg: str = "PS256"

    def get_client_id(self) -> str:
        return self.client_id

    def get_default_redirect_uri(self) -> str:
        return REDIRECT_URI

    def get_allowed_scope(self, scope: str | None) -> str:
        return " ".join(word for word in (scope or "").split() if word in {"openid", "accounts"})

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return redirect_uri == REDIRECT_URI

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method == METHOD

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type in {"authorization_code", "refresh_token", "client_credentials"}


@dataclass(slots=True)
class Code:
    """An authorisation code, as Authlib asks for it."""

    code: str
    redirect_uri: str
    scope: str
    code_challenge: str
    code_challenge_method: str
    nonce: str

    def get_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_scope(self) -> str:
        return self.scope

    def get_nonce(self) -> str:
        return self.nonce

    def get_auth_time(self) -> int:
        return int(time.time())

    def get_acr(self) -> None:
        return None

    def get_amr(self) -> None:
        return None


@dataclass(slots=True)
class Token:
    """A refresh token, as Authlib asks for it."""

    scope: str
    revoked: bool = False

    def check_client(self, client: Client) -> bool:
        return True

    def get_scope(self) -> str:
        return self.scope


class FapiServer(AuthorizationServer):  # type: ignore[misc]  # untyped
    """Authlib's server with four doors."""

    def __init__(self, identities: Identities) -> None:
        super().__init__(scopes_supported=["openid", "accounts"])
        public = RSAKey.import_key(identities.signing_key.read_bytes()).as_dict(private=False)
        self.client = Client(CLIENT_ID, {"keys": [{**public, "kid": OUR_KID, "use": "sig", "alg": "PS256"}]})
        self.identities = identities
        self.pushed: dict[str, str] = {}
        self.codes: dict[str, Code] = {}
        self.refresh_tokens: dict[str, Token] = {}
        self.access_tokens: set[str] = set()
        self.assertion_ids: set[str] = set()
        self.details: list[Any] = []
        self._listeners: list[Listener] = []
        self.register_token_generator(
            "default",
            BearerTokenGenerator(_random, _random, lambda _client, _grant_type: EXPIRES_IN),
        )
        self.register_client_auth_method(METHOD, _Assertion(self))
        self.register_extension(_Jar(self))
        self.register_extension(_Issuer(self))
        self.register_grant(_code_grant(self), [CodeChallenge(required=True), _IdToken(self)])
        self.register_grant(_refresh_grant(self))
        self.register_grant(_ClientCredentials)

    # -- what Authlib leaves to who uses it ---------------------------------------------------------------------------

    def query_client(self, client_id: str) -> Client | None:
        return self.client if client_id == self.client.client_id else None

    def save_token(self, token: dict[str, Any], request: OAuth2Request) -> None:
        self.access_tokens.add(token["access_token"])
        if "refresh_token" in token:
            self.refresh_tokens[token["refresh_token"]] = Token(token["scope"])

    def send_signal(self, name: str, *args: object, **kwargs: object) -> None:
        return None

    def create_oauth2_request(self, request: OAuth2Request) -> OAuth2Request:
        return request

    def handle_response(self, status: int, body: Any, headers: Any) -> "_Response":
        return _Response(status, body, dict(headers))

    # -- doors --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen on four ports, mutual TLS on all but the first."""
        sockets = [bind(0) for _ in range(4)]
        origins = [f"https://localhost:{one.getsockname()[1]}" for one in sockets]
        self.issuer = f"{origins[0]}/realms/bank-one"
        self.discovery_url = f"{origins[0]}/metadata/bank-one.json"
        self.token_endpoint, self.par_endpoint = f"{origins[1]}/oauth2/token", f"{origins[2]}/push/it/here"
        self.base_url = origins[3] + BASE_PATH

        async def door(scope: Any, receive: Any, send: Any) -> None:
            await self._door(scope, receive, send)

        for number, bound in enumerate(sockets):
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(self.identities.ca_bundle))
            context.load_cert_chain(self.identities.server_certificate, self.identities.server_key)
            context.verify_mode = ssl.CERT_REQUIRED if number else ssl.CERT_NONE
            self._listeners.append(Listener(door, bound, context))
            await self._listeners[-1].start()

    async def stop(self) -> None:
        """Close the ports."""
        for listener in self._listeners:
            await listener.stop()

    def metadata(self) -> dict[str, Any]:
        """The discovery document."""
        origin = self.issuer.removesuffix("/realms/bank-one")
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{origin}/login?theme=plain",
            "token_endpoint": self.token_endpoint,
            "pushed_authorization_request_endpoint": self.par_endpoint,
            "jwks_uri": f"{origin}/keys",
            "scopes_supported": ["openid", "accounts"],
            "grant_types_supported": ["authorization_code", "client_credentials", "refresh_token"],
            "authorization_details_types_supported": ["urn:openfinanceuae:account-access-consent:v2.1"],
            "token_endpoint_auth_methods_supported": [METHOD],
            "token_endpoint_auth_signing_alg_values_supported": ["PS256"],
            "request_object_signing_alg_values_supported": ["PS256"],
            "require_signed_request_object": True,
            "code_challenge_methods_supported": ["S256"],
            "response_types_supported": ["code"],
            "require_pushed_authorization_requests": True,
            "authorization_response_iss_parameter_supported": True,
        }

    async def _door(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while (message := await receive()).get("more_body") or message["type"] == "http.request":
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        query, form = (dict(parse_qsl(raw.decode())) for raw in (scope["query_string"], body))
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        answer = self._answer(scope["path"], _Request(scope, query, form, headers))
        content = json.dumps(answer.body).encode() if answer.body else b""
        given = {"content-type": "application/json", **{name.lower(): text for name, text in answer.headers.items()}}
        given["content-length"] = str(len(content))
        raw_headers = [(name.encode(), text.encode()) for name, text in given.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": raw_headers})
        await send({"type": "http.response.body", "body": content})

    def _answer(self, path: str, request: "_Request") -> "_Response":
        match path:
            case "/metadata/bank-one.json":
                return _Response(200, self.metadata(), {})
            case "/keys":
                return _Response(200, self.identities.jwks(SERVER_KID), {})
            case "/push/it/here":
                return self._push(request)
            case "/login":
                grant = self.get_consent_grant(request, end_user="user-1")
                response: _Response = self.create_authorization_response(request, grant_user="user-1", grant=grant)
                return response
            case "/oauth2/token":
                tokens: _Response = self.create_token_response(request)
                return tokens
            case _ if path == f"{BASE_PATH}/accounts":
                return self._accounts(request)
            case _ if path.startswith(f"{BASE_PATH}/account-access-consents/"):
                return self._consent(request, path.rpartition("/")[2])
        return _Response(404, None, {})

    def _push(self, request: "_Request") -> "_Response":
        try:
            self.authenticate_client(request, [METHOD], endpoint="par")
        except OAuth2Error as error:
            refused: _Response = self.handle_error_response(request, error)
            return refused
        urn = f"urn:ietf:params:oauth:request_uri:{secrets.token_urlsafe(16)}"
        self.pushed[urn] = request.form["request"]
        return _Response(201, {"request_uri": urn, "expires_in": 60}, {})

    def _consent(self, request: "_Request", consent_id: str) -> "_Response":
        if not self._may(request):
            return _Response(401, None, {})
        asked = [detail["consent"] for details in self.details for detail in details]
        found = next((one for one in asked if one["ConsentId"] == consent_id), None)
        if found is None:
            return _Response(404, None, {})
        status = {"Status": "Authorized", "StatusUpdateDateTime": datetime.now(UTC).isoformat(timespec="seconds")}
        return _Response(200, {"Data": found | status, "Links": {}, "Meta": {}}, {})

    def _may(self, request: "_Request") -> bool:
        return request.headers.get("authorization", "").removeprefix("Bearer ") in self.access_tokens

    def _accounts(self, request: "_Request") -> "_Response":
        if not self._may(request):
            return _Response(401, None, {})
        return _Response(200, {"Data": {"Account": [{"AccountId": "a-1"}]}, "Links": {}, "Meta": {}}, {})


class _Request(OAuth2Request):  # type: ignore[misc]  # untyped
    def __init__(self, scope: Any, query: dict[str, str], form: dict[str, str], headers: dict[str, str]) -> None:
        super().__init__(scope["method"], f"https://{headers['host']}{scope['path']}?{urlencode(query)}", None, headers)
        self._query, self._form = query, form
        self.payload = BasicOAuth2Payload({**query, **form})

    @property
    def args(self) -> dict[str, str]:
        return self._query

    @property
    def form(self) -> dict[str, str]:
        return self._form


@dataclass(slots=True)
class _Response:
    status: int
    body: Any
    headers: dict[str, str]

    @property
    def location(self) -> str | None:
        return self.headers.get("Location")

    @location.setter
    def location(self, url: str) -> None:
        self.headers["Location"] = url


class _Assertion(JWTBearerClientAssertion):  # type: ignore[misc]  # untyped
    CLIENT_AUTH_METHOD = METHOD

    def __init__(self, server: FapiServer) -> None:
        super().__init__(leeway=0)
        self._server = server

    def get_audiences(self) -> list[str]:
        return [self._server.issuer]

    def process_assertion_claims(self, assertion: str, resolve_key: Any) -> Any:
        """As Authlib does it, which by itself takes RS256 and not PS256."""
        try:
            claims = jwt.decode(assertion, resolve_key, algorithms=["PS256"]).claims
        except JoseError as error:
            raise InvalidClientError(description=error.description) from error
        self.verify_claims(claims)
        return claims

    def validate_jti(self, claims: dict[str, Any], jti: str) -> bool:
        fresh = jti not in self._server.assertion_ids
        self._server.assertion_ids.add(jti)
        return fresh

    def resolve_client_public_key(self, client: Client) -> KeySet:
        return KeySet.import_key_set(client.jwks)  # type: ignore[arg-type]  # a plain JWKS


class _Jar(JWTAuthenticationRequest):  # type: ignore[misc]  # untyped
    def __init__(self, server: FapiServer) -> None:
        super().__init__(support_request=False)
        self._server = server

    @property
    def claims_validator(self) -> jwt.JWTClaimsRegistry:
        """FAPI 2.0 asks for all of these; the audience is the issuer, as one string."""
        return jwt.JWTClaimsRegistry(
            client_id={"essential": True},
            iss={"essential": True, "value": CLIENT_ID},
            aud={"essential": True, "value": self._server.issuer},
            exp={"essential": True},
            nbf={"essential": True},
        )

    def validate_request_uri(self, request_uri: str, client: Client) -> bool:
        return request_uri in self._server.pushed

    def get_request_object(self, request_uri: str) -> str:
        return self._server.pushed[request_uri]

    def resolve_client_public_key(self, client: Client) -> KeySet:
        return KeySet.import_key_set(client.jwks)  # type: ignore[arg-type]  # a plain JWKS

    def get_server_metadata(self) -> dict[str, Any]:
        return self._server.metadata()


class _Issuer(IssuerParameter):  # type: ignore[misc]  # untyped
    def __init__(self, server: FapiServer) -> None:
        self._server = server

    def get_issuer(self) -> str:
        return self._server.issuer


class _IdToken(OpenIDCode):  # type: ignore[misc]  # untyped
    def __init__(self, server: FapiServer) -> None:
        super().__init__(require_nonce=True)
        self._server = server

    def exists_nonce(self, nonce: str, request: OAuth2Request) -> bool:
        return any(code.nonce == nonce for code in self._server.codes.values())

    def resolve_client_private_key(self, client: Client) -> RSAKey:
        return self._server.identities.bank_signing

    def get_encode_header(self, client: Client) -> dict[str, str]:
        return {"alg": "PS256", "kid": SERVER_KID}

    def get_client_claims(self, client: Client) -> dict[str, Any]:
        return {"iss": self._server.issuer, "aud": client.client_id}

    def generate_user_info(self, user: str, scope: str) -> UserInfo:
        return UserInfo(sub=user)


class _ClientCredentials(grants.ClientCredentialsGrant):  # type: ignore[misc]  # untyped
    TOKEN_ENDPOINT_AUTH_METHODS: Final = [METHOD]


def _code_grant(server: FapiServer) -> Any:
    class Grant(grants.AuthorizationCodeGrant):  # type: ignore[misc]  # untyped
        TOKEN_ENDPOINT_AUTH_METHODS: Final = [METHOD]

        def save_authorization_code(self, code: str, request: OAuth2Request) -> None:
            asked = request.payload.data
            server.details.append(asked["authorization_details"])
            server.codes[code] = Code(
                code, asked["redirect_uri"], asked["scope"], asked["code_challenge"], asked["code_challenge_method"],
                asked["nonce"],
            )  # fmt: skip

        def query_authorization_code(self, code: str, client: Client) -> Code | None:
            return server.codes.get(code)

        def delete_authorization_code(self, authorization_code: Code) -> None:
            del server.codes[authorization_code.code]

        def authenticate_user(self, authorization_code: Code) -> str:
            return "user-1"

    return Grant


def _refresh_grant(server: FapiServer) -> Any:
    class Grant(grants.RefreshTokenGrant):  # type: ignore[misc]  # untyped
        TOKEN_ENDPOINT_AUTH_METHODS: Final = [METHOD]
        INCLUDE_NEW_REFRESH_TOKEN: Final = True

        def authenticate_refresh_token(self, refresh_token: str) -> Token | None:
            held = server.refresh_tokens.get(refresh_token)
            return held if held and not held.revoked else None

        def authenticate_user(self, refresh_token: Token) -> str:
            return "user-1"

        def revoke_old_credential(self, refresh_token: Token) -> None:
            refresh_token.revoked = True

    return Grant


def _random(**_: object) -> str:
    return secrets.token_urlsafe(32)
