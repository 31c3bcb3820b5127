//! What clients may say to us, row by row.
