//! What an application must do for tracing to work: hand the caller's context on to whatever it calls.

use http::HeaderMap;
use tonic::metadata::{MetadataKey, MetadataMap, MetadataValue};

/// Headers that belong to a request's whole chain of calls: B3 (both forms), W3C trace context, the request id.
pub const FORWARDED: [&str; 9] = [
    "x-request-id",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "traceparent",
    "tracestate",
];

/// Copies the headers of [`FORWARDED`] from an HTTP request to the metadata of a gRPC call.
pub fn forward(from: &HeaderMap, to: &mut MetadataMap) {
    for name in FORWARDED {
        let key = MetadataKey::from_static(name);
        let values = from.get_all(name).iter().filter_map(|value| value.to_str().ok());
        for value in values.filter_map(|text| MetadataValue::try_from(text).ok()) {
            to.append(key.clone(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_is_forwarded_and_nothing_else() {
        let mut from = HeaderMap::new();
        from.insert("b3", "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1".parse().unwrap());
        from.append("tracestate", "a=1".parse().unwrap());
        from.append("tracestate", "b=2".parse().unwrap());
        from.insert("cookie", "secret".parse().unwrap());
        let mut to = MetadataMap::new();
        forward(&from, &mut to);
        assert_eq!(to.get("b3").unwrap(), "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1");
        assert_eq!(to.get_all("tracestate").iter().count(), 2);
        assert!(to.get("cookie").is_none());
    }
}
