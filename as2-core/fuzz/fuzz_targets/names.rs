//! Names and parameters: the first line is a Content-Disposition, the second a Content-Type, the third a
//! Content-Transfer-Encoding; the rest is the body. What comes out as a file name must be fit to be looked at.
#![no_main]

use as2_core::headers::Headers;
use as2_core::receive::SecurityPolicy;
use as2_core_fuzz::receive;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut lines = data.splitn(4, |&byte| byte == b'\n');
    let mut headers = Headers::new();
    for name in ["Content-Disposition", "Content-Type", "Content-Transfer-Encoding"] {
        let Some(value) = lines.next() else { break };
        if headers.push_raw(name, value).is_err() {
            return;
        }
    }
    let body = lines.next().unwrap_or_default().to_vec();
    if let Ok(outcome) = receive(&headers, SecurityPolicy::default(), &mut || vec![body.clone()]) {
        for (part, _) in outcome.parts {
            assert!(part.file_name.is_none_or(|name| !name.trim().is_empty()), "an empty file name");
            assert!(!part.content_type.contains(['\r', '\n', ';']), "a media type with more than a type");
        }
    }
});
