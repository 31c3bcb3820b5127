//! What we say to hosts, row by row: a scripted MX listens.
