//! Who somebody is: SPIFFE names, and what must hold before one is believed.

pub mod join_token;
pub mod schedule;
pub mod spiffe;
