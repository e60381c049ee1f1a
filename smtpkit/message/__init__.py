"""What is carried: addresses, header fields and messages, made into an envelope and mail data."""
