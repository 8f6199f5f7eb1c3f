//! What leaf certificates say, read once. Sidecars meet the same peers all day, and reading a certificate costs more than
//! the rest of the judgement.
//!
//! What a certificate says depends on its bytes alone, by whose SHA-256 it is known again. Whether it is valid now is
//! another question, and asked after every handshake.

use std::cell::RefCell;
use std::rc::Rc;

use rustls::pki_types::CertificateDer;
use weft_core::hash::Map;

use crate::identity::leaf::{Leaf, LeafError};

/// Leaves remembered. All are forgotten when there are more.
const LEAVES_MAX: usize = 1024;

/// The memory of one side of a worker.
#[derive(Debug, Default)]
pub(super) struct Leaves {
    known: RefCell<Map<[u8; 32], Rc<Leaf>>>,
}

impl Leaves {
    /// What the certificate with this SHA-256 says.
    ///
    /// # Errors
    /// Those of [`Leaf::parse`], which are not remembered.
    pub(super) fn read(&self, sha256: &[u8; 32], certificate: &CertificateDer<'_>) -> Result<Rc<Leaf>, LeafError> {
        let mut known = self.known.borrow_mut();
        if let Some(leaf) = known.get(sha256) {
            return Ok(Rc::clone(leaf));
        }
        let leaf = Rc::new(Leaf::parse(certificate)?);
        if known.len() >= LEAVES_MAX {
            known.clear();
        }
        known.insert(*sha256, Rc::clone(&leaf));
        Ok(leaf)
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;
    use crate::identity::sha256;

    fn certificate(uri: &str) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn each_certificate_says_its_own_and_is_read_once() {
        let leaves = Leaves::default();
        let read = |certificate: &CertificateDer<'_>| leaves.read(&sha256(certificate), certificate);
        let [cart, web] = ["cart", "web"].map(|name| certificate(&format!("spiffe://a/ns/shop/sa/{name}")));
        let first = read(&cart).unwrap();
        assert_eq!(*first, Leaf::parse(&cart).unwrap());
        assert_eq!(*read(&web).unwrap(), Leaf::parse(&web).unwrap());
        assert!(Rc::ptr_eq(&first, &read(&cart).unwrap()));
    }

    #[test]
    fn memory_is_bounded_and_what_is_refused_is_not_kept() {
        let leaves = Leaves::default();
        let stranger = certificate("https://a/");
        for _ in 0..2 {
            assert!(leaves.read(&sha256(&stranger), &stranger).is_err());
        }
        assert!(leaves.known.borrow().is_empty());
        let cart = certificate("spiffe://a/ns/shop/sa/cart");
        for number in 0..=LEAVES_MAX {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&number.to_be_bytes());
            leaves.read(&key, &cart).unwrap();
        }
        assert_eq!(leaves.known.borrow().len(), 1);
    }
}
