//! Pieces of structured header fields (RFC 5322 §3.2), taken from the front: no octets are lost,
//! whatever they are.

pub(super) fn is_space(octet: u8) -> bool {
    matches!(octet, b' ' | b'\t' | b'\r' | b'\n')
}

pub(super) fn take<'a>(rest: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (front, behind) = rest.split_at_checked(count).unwrap_or((rest, b""));
    *rest = behind;
    front
}

pub(super) fn take_while<'a>(rest: &mut &'a [u8], is_wanted: impl Fn(u8) -> bool) -> &'a [u8] {
    let end = rest.iter().position(|octet| !is_wanted(*octet)).unwrap_or(rest.len());
    take(rest, end)
}

/// Up to an octet that is not behind a backslash.
pub(super) fn take_escaped<'a>(rest: &mut &'a [u8], is_end: impl Fn(u8) -> bool) -> &'a [u8] {
    let (mut at, mut is_escaped) = (0, false);
    for octet in *rest {
        if !is_escaped && is_end(*octet) {
            break;
        }
        is_escaped = !is_escaped && *octet == b'\\';
        at += 1;
    }
    take(rest, at)
}

/// A quoted string with its quotes.
pub(super) fn take_quoted<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let all = *rest;
    take(rest, 1);
    take_escaped(rest, |octet| octet == b'"');
    take(rest, 1);
    all.get(..all.len() - rest.len()).unwrap_or(all)
}

/// An address with its angle brackets.
pub(super) fn take_angle<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let all = *rest;
    loop {
        take_while(rest, |octet| !b"\">".contains(&octet));
        if rest.first() != Some(&b'"') {
            take(rest, 1);
            return all.get(..all.len() - rest.len()).unwrap_or(all);
        }
        take_quoted(rest);
    }
}

/// A comment with all that is nested in it.
pub(super) fn take_comment<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let (all, mut depth) = (*rest, 0_usize);
    loop {
        take_escaped(rest, |octet| b"()".contains(&octet));
        match take(rest, 1) {
            b"(" => depth += 1,
            _ => depth = depth.saturating_sub(1),
        }
        if depth == 0 || rest.is_empty() {
            return all.get(..all.len() - rest.len()).unwrap_or(all);
        }
    }
}

/// Up to a semicolon, which is taken but not returned, or to where one is missing before the next
/// parameter.
pub(super) fn take_parameter<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let all = *rest;
    loop {
        take_while(rest, |octet| !b"\"(; \t\r\n".contains(&octet));
        match rest.first() {
            Some(octet) if is_space(*octet) => {
                let part = all.get(..all.len() - rest.len()).unwrap_or(all).trim_ascii();
                if !part.is_empty() && !part.ends_with(b"=") && begins_parameter(rest) {
                    return all.get(..all.len() - rest.len()).unwrap_or(all);
                }
                take(rest, 1)
            }
            Some(b'"') => take_quoted(rest),
            Some(b'(') => take_comment(rest),
            Some(_) | None => {
                let part = all.get(..all.len() - rest.len()).unwrap_or(all);
                take(rest, 1);
                return part;
            }
        };
    }
}

/// Is there white space, a name and an equals sign?
fn begins_parameter(text: &[u8]) -> bool {
    let text = text.trim_ascii_start();
    let end = text
        .iter()
        .position(|octet| !octet.is_ascii_graphic() || b"()<>@,;:\\\"/[]?=".contains(octet));
    end.is_some_and(|end| end > 0 && text.get(end) == Some(&b'='))
}

pub(super) fn unescaped(raw: &[u8]) -> Vec<u8> {
    let (mut text, mut is_escaped) = (Vec::with_capacity(raw.len()), false);
    for octet in raw {
        is_escaped = !is_escaped && *octet == b'\\';
        if !is_escaped && !matches!(octet, b'\r' | b'\n') {
            text.push(*octet);
        }
    }
    text
}

pub(super) fn unquoted(raw: &[u8]) -> Vec<u8> {
    let inner = raw.strip_prefix(b"\"").unwrap_or(raw);
    unescaped(inner.strip_suffix(b"\"").unwrap_or(inner))
}

pub(super) fn unfolded(gap: &[u8]) -> Vec<u8> {
    gap.iter().copied().filter(|octet| !matches!(octet, b'\r' | b'\n')).collect()
}
