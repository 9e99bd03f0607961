"""JSON Web Tokens: their keys, their verification, and the tokens that the gateway signs."""
