"""The client's end of a nanny's journal: what a kernel said is read by number, in order, once."""
