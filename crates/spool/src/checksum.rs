//! CRC-32C (Castagnoli, as in RFC 3720 §12.1) over what never changes: a flipped bit must not send
//! a message to somebody else.
//!
//! In SQL it is `row_crc(…)` over any values, so that the statement that writes a row and those
//! that read it name the same columns. A null in the place of a checksum is that of a row that a
//! release before format 4 has written: it is not checked.

use rusqlite::Connection;
use rusqlite::functions::FunctionFlags;
use rusqlite::types::ValueRef;

/// The columns of a recipient that never change, those of `r`.
macro_rules! recipient_crc {
    () => {
        "row_crc(r.id, r.mailbox, r.expires_at, r.priority, r.notify, r.original)"
    };
}
pub(crate) use recipient_crc;

/// Those of a message, of `m`; with the checksum of its body, so with the body.
macro_rules! message_crc {
    () => {
        "row_crc(m.seq, m.id, m.sender, m.client, m.arrived_at, m.place, m.size, m.header_len, m.has_8bit, m.longest_line,
             m.ends_with_newline, m.received_count, m.ret, m.envelope_id, m.smtp_utf8, m.require_tls, m.deliver_by,
             m.deliver_by_mode, m.not_before, m.user, m.body_crc)"
    };
}
pub(crate) use message_crc;

/// Makes `row_crc` known to a connection.
pub(crate) fn add_to(db: &Connection) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8
        | FunctionFlags::SQLITE_DETERMINISTIC
        | FunctionFlags::SQLITE_DIRECTONLY;
    db.create_scalar_function("row_crc", -1, flags, |values| {
        let crc = (0..values.len()).map(|place| values.get_raw(place)).fold(0, add_value);
        Ok(i64::from(crc))
    })
}

/// Type and length go before each value, so that no two rows look the same.
fn add_value(crc: u32, value: ValueRef<'_>) -> u32 {
    let with_length = |tag: u8, octets: &[u8]| {
        let length = u64::try_from(octets.len()).unwrap_or(u64::MAX);
        add(add(add(crc, &[tag]), &length.to_le_bytes()), octets)
    };
    match value {
        ValueRef::Null => add(crc, &[0]),
        ValueRef::Integer(number) => add(add(crc, &[1]), &number.to_le_bytes()),
        ValueRef::Real(number) => add(add(crc, &[2]), &number.to_le_bytes()),
        ValueRef::Text(octets) => with_length(3, octets),
        ValueRef::Blob(octets) => with_length(4, octets),
    }
}

/// The checksum of what came before and `octets`; 0: nothing came before.
pub(crate) fn add(crc: u32, octets: &[u8]) -> u32 {
    crc32c::crc32c_append(crc, octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_checksum_of_rfc_3720() {
        // RFC 3720 B.4: 32 octets of zeros, of ones, and 0 to 31.
        assert_eq!(add(0, &[0; 32]), 0x8a91_36aa);
        assert_eq!(add(0, &[0xff; 32]), 0x62a8_ab43);
        let rising: Vec<u8> = (0..32).collect();
        let (front, back) = rising.split_at(13);
        assert_eq!(add(add(0, front), back), 0x46dd_794e);
    }

    #[test]
    fn each_value_of_a_row_counts_with_its_type_and_its_end() {
        let db = Connection::open_in_memory().unwrap();
        add_to(&db).unwrap();
        let crc = |values: &str| {
            let select = format!("SELECT row_crc({values})");
            db.query_row(&select, [], |row| row.get::<_, i64>(0)).unwrap()
        };
        let rows =
            ["1, 'ab', 'c'", "1, 'a', 'bc'", "2, 'ab', 'c'", "1, 'ab', NULL", "1, x'6162', 'c'"];
        for (at, row) in rows.iter().enumerate() {
            assert_eq!(crc(row), crc(row));
            assert!(rows.iter().skip(at + 1).all(|other| crc(other) != crc(row)), "{row}");
        }
    }
}
