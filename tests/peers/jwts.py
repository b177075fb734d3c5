"""JWTs as another library sees them.

    python -m jwts verify [JWKS TYPE AUDIENCE TOKEN]…   what each says, or why it is refused; AUDIENCE may be -
    python -m jwts forge JWKS TOKEN                     tokens that somebody without the signing key makes of it

JWKS is the address of a JWK set, or a file."""

import base64
import json
import sys

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


def public_key(jwks, token):
    if jwks.startswith("http"):
        return jwt.PyJWKClient(jwks).get_signing_key_from_jwt(token).key
    with open(jwks, encoding="utf-8") as file:
        keys = jwt.PyJWKSet.from_json(file.read())
    return keys[jwt.get_unverified_header(token)["kid"]].key


def verify(jwks, media_type, audience, token):
    try:
        head = jwt.get_unverified_header(token)
        if head.get("typ") != media_type:
            raise jwt.InvalidTokenError(f"typ is {head.get('typ')}")
        claims = jwt.decode(
            token,
            public_key(jwks, token),
            algorithms=["EdDSA"],
            audience=None if audience == "-" else audience,
            options={"require": ["iss", "sub", "iat"] + ([] if audience == "-" else ["aud", "exp"])},
        )
        return {"head": head, "claims": claims}
    except (jwt.PyJWTError, KeyError) as refused:
        return {"refused": type(refused).__name__}


def encoded(value):
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def forge(jwks, token):
    head, claims = jwt.get_unverified_header(token), jwt.decode(token, options={"verify_signature": False})
    signed, signature = token.rsplit(".", 1)
    raw = public_key(jwks, token).public_bytes_raw()
    own = Ed25519PrivateKey.generate()
    changed = dict(claims, project="another", exp=4102444800)
    without = {name: value for name, value in claims.items() if name != "rnd"}
    kid = {"kid": head["kid"], "typ": head["typ"]}
    return [
        encoded({"alg": "none", "typ": head["typ"]}) + "." + signed.split(".")[1] + ".",
        encoded(dict(head, alg="none")) + "." + signed.split(".")[1] + "." + signature,
        signed.split(".")[0] + "." + encoded(changed) + "." + signature,
        jwt.encode(changed, own, "EdDSA", headers=kid),
        jwt.encode(claims, own, "EdDSA", headers=kid),
        jwt.encode(without, own, "EdDSA", headers=kid),
        jwt.encode(claims, base64.urlsafe_b64encode(raw), "HS256", headers=kid),
        jwt.encode(claims, own, "EdDSA", headers=dict(kid, jwk={"kty": "OKP", "crv": "Ed25519", "x": "AA"})),
        signed + "." + signature[:-2],
        signed + ".",
        token + ".",
    ]


if __name__ == "__main__":
    task, *arguments = sys.argv[1:]
    if task == "forge":
        print(json.dumps(forge(*arguments)))
    else:
        print(json.dumps([verify(*four) for four in zip(*[iter(arguments)] * 4)]))
