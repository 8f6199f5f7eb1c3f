//! Marks of a response that a proxy made itself, so that nobody takes it for the application's (R11, O11).

use crate::fault::FaultKind;
use crate::fields::Fields;

/// The stable code of the fault.
pub const ERROR: &str = "x-weft-error";

/// `proxy-status` (RFC 9209).
pub const PROXY_STATUS: &str = "proxy-status";

/// Marks a response made for `fault`: `proxy-status` with error type and a phrase, and `x-weft-error`.
///
/// Only for responses of our own; one that passes through keeps what other proxies wrote.
pub fn mark(fields: &mut Fields, fault: FaultKind) {
    let look = fault.appearance();
    fields.set(PROXY_STATUS, format!("weft; error={}; details=\"{}\"", look.proxy_status, look.phrase));
    fields.set(ERROR, look.code);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::propagate::testing::lines;

    #[test]
    fn own_responses_say_so() {
        let mut fields = Fields::new();
        mark(&mut fields, FaultKind::ConnectTimeout);
        let expected = [
            "proxy-status: weft; error=connection_timeout; details=\"connecting upstream took too long\"",
            "x-weft-error: connect_timeout",
        ];
        assert_eq!(lines(&fields), expected);
        mark(&mut fields, FaultKind::Loop);
        assert_eq!(fields.len(), 2);
        assert_eq!(fields.get_str(ERROR), Some("loop"));
    }
}
