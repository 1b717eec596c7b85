"""The demo: the whole line on one machine, from synthetic mails to a routed batch (`make demo`)."""
