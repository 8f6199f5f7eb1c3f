//! Who somebody is: SPIFFE names, and what must hold before one is believed.

pub mod spiffe;
