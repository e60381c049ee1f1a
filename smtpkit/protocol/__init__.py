"""The conversation: what SMTP says and hears, without I/O, clocks or an event loop."""
