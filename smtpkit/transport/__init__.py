"""How octets travel: streams, connecting, TLS; nothing here knows that it carries SMTP."""
