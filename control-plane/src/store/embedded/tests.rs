//! Damage, crashes and ownership of the file. What every backend must do is in `conformance`.
