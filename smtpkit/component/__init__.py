"""The documented mail component: a table of properties, methods, events and settings over the library's sessions."""
