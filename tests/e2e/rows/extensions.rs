//! The extensions of SMTP and the notices, row by row, on both sides.
