//! JSON that a terminal takes for nothing but text: the same value, with escapes for all that does
//! not show.

use serde_json::Value;
use smtp::remote_text::is_inert;

/// Appends `value` on one line.
pub(crate) fn push(out: &mut String, value: &Value) {
    push_inert(out, &value.to_string());
}

/// Appends `text` as a JSON string.
pub(crate) fn push_text(out: &mut String, text: &str) {
    if text.bytes().all(|octet| matches!(octet, b' '..=b'~') && !matches!(octet, b'"' | b'\\')) {
        out.extend(["\"", text, "\""]);
    } else {
        push(out, &text.into());
    }
}

/// Appends JSON.
fn push_inert(out: &mut String, text: &str) {
    if text.bytes().all(|octet| matches!(octet, b' '..=b'~')) {
        out.push_str(text);
        return;
    }
    for c in text.chars() {
        if is_inert(c) {
            out.push(c);
        } else {
            // Outside of strings JSON has ASCII only.
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_show_is_escaped_and_the_value_stays() {
        let value = Value::from("a\u{200b}\u{e0041}\u{7f}\u{fc}\u{202e}\n\"");
        let mut out = String::new();
        push(&mut out, &value);
        assert_eq!(out, "\"a\\u200b\\udb40\\udc41\\u007f\u{fc}\\u202e\\n\\\"\"");
        assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), value);
        let mut alone = String::new();
        push_text(&mut alone, value.as_str().unwrap());
        assert_eq!(alone, out);
        let mut plain = String::new();
        push_text(&mut plain, "it's ~plain");
        assert_eq!(plain, "\"it's ~plain\"");
    }
}
