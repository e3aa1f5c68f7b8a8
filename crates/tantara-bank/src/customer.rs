//! Customers, and lists of them in CSV.

use std::error::Error;
use std::fmt;
use std::io::Read;

/// The type of a customer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// Waits for transactions to open.
    WithdrawMoney,
    /// Waits only for the bank to open.
    CheckBalance,
}

impl Kind {
    /// Every kind, for messages that list them.
    pub const ALL: [Kind; 2] = [Kind::WithdrawMoney, Kind::CheckBalance];

    /// Its name in customer lists.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Kind::WithdrawMoney => "WITHDRAW_MONEY",
            Kind::CheckBalance => "CHECK_BALANCE",
        }
    }

    /// The kind of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|known| known.name() == name)
    }
}

/// One customer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Customer {
    /// Never empty, and without control characters, so that a line about a customer stays one line.
    pub name: Box<str>,
    /// The type.
    pub kind: Kind,
}

/// The default customers: four, of whom the second checks a balance.
#[must_use]
pub fn default_customers() -> Vec<Customer> {
    crowd(4)
}

/// `count` customers, with the types of the default customers repeated.
#[must_use]
pub fn crowd(count: usize) -> Vec<Customer> {
    (1..=count)
        .map(|number| Customer {
            name: format!("Customer {number}").into(),
            kind: if number % 4 == 2 { Kind::CheckBalance } else { Kind::WithdrawMoney },
        })
        .collect()
}

/// An error in a customer list, and its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadList {
    line: Option<u64>,
    what: String,
}

impl BadList {
    /// An error of the whole list.
    fn all(what: impl Into<String>) -> BadList {
        BadList { line: None, what: what.into() }
    }

    /// The line of the list, counted from 1, if the error is in a line.
    #[must_use]
    pub fn line(&self) -> Option<u64> {
        self.line
    }
}

impl fmt::Display for BadList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Error for BadList {}

/// The maximum size of a list in bytes: enough for some ten million customers, and a limit for an
/// endless input.
const LONGEST: u64 = 1 << 30;

/// The maximum number of customers.
pub const MOST_CUSTOMERS: usize = 10_000_000;

/// Reads a CSV list: the header `name,type`, then one customer per line. Spaces around a value are
/// ignored.
///
/// # Errors
///
/// The first error in the list, with its line: see [`BadList`].
pub fn read_customers(list: impl Read) -> Result<Vec<Customer>, BadList> {
    read_at_most(MOST_CUSTOMERS, list)
}

fn read_at_most(most: usize, list: impl Read) -> Result<Vec<Customer>, BadList> {
    let mut text = Vec::new();
    list.take(LONGEST + 1)
        .read_to_end(&mut text)
        .map_err(|error| BadList::all(format!("cannot be read: {error}; expected a CSV file")))?;
    if text.len() as u64 > LONGEST {
        return Err(BadList::all("the list is longer than 1 GiB, expected a shorter one"));
    }
    let mut reader =
        csv::ReaderBuilder::new().has_headers(false).flexible(true).trim(csv::Trim::All).from_reader(&*text);
    let mut customers = Vec::new();
    let mut record = csv::StringRecord::new();
    let mut header_seen = false;
    let place = |position: Option<&csv::Position>| line_of(&text, position);
    while reader.read_record(&mut record).map_err(|error| bad_csv(&error, place(error.position())))? {
        let bad = |what: String| BadList { line: place(record.position()), what };
        if !closes_quotes(&text, record.position(), reader.position()) {
            return Err(bad("a quotation mark is not closed, expected an even number of them".into()));
        }
        let fields: Vec<&str> = record.iter().collect();
        if header_seen && customers.len() == most {
            return Err(bad(format!("the list has more than {most} customers, expected a shorter one")));
        } else if header_seen {
            customers.push(customer(&fields).map_err(bad)?);
        } else if fields == ["name", "type"] {
            header_seen = true;
        } else {
            return Err(bad(format!("the header is {:?}, expected name,type", fields.join(","))));
        }
    }
    if !header_seen {
        return Err(BadList::all("the list is empty, expected the header name,type"));
    }
    if customers.is_empty() {
        return Err(BadList::all("no customer follows the header, expected lines such as Ann,WITHDRAW_MONEY"));
    }
    Ok(customers)
}

/// Whether the record between these positions has an even number of quotation marks. The reader takes
/// everything behind one that is not closed as one value.
fn closes_quotes(text: &[u8], start: Option<&csv::Position>, end: &csv::Position) -> bool {
    let byte = |position: &csv::Position| usize::try_from(position.byte()).unwrap_or(usize::MAX).min(text.len());
    let record = text.get(start.map_or(0, byte)..byte(end)).unwrap_or_default();
    record.iter().filter(|&&byte| byte == b'"').count() % 2 == 0
}

/// The line, from 1, on which a record begins. The reader's own count does not include the blank
/// lines that it skips before it.
fn line_of(text: &[u8], position: Option<&csv::Position>) -> Option<u64> {
    let start = usize::try_from(position?.byte()).ok()?;
    let blank = text.get(start..)?.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    let before = &text[..start + blank];
    // A carriage return alone ends a line as well.
    let is_end = |at: usize| before[at] == b'\n' || (before[at] == b'\r' && text.get(at + 1) != Some(&b'\n'));
    let line_ends = (0..before.len()).filter(|&at| is_end(at)).count();
    Some(line_ends as u64 + 1)
}

fn customer(fields: &[&str]) -> Result<Customer, String> {
    let &[name, kind] = fields else {
        let found = match fields.len() {
            1 => "1 value".to_owned(),
            n => format!("{n} values"),
        };
        return Err(format!("{found} found, expected two: name,type"));
    };
    if name.is_empty() {
        return Err("the name is empty, expected name,type".into());
    }
    if name.chars().any(breaks_a_line) {
        return Err(format!("the name {name:?} has a control character, expected a name that fits on a line"));
    }
    let Some(kind) = Kind::named(kind) else {
        let known = Kind::ALL.map(Kind::name).join(" or ");
        return Err(format!("unknown type {kind:?}, expected {known}"));
    };
    Ok(Customer { name: name.into(), kind })
}

/// Whether a character could break a line of output: control characters, and Unicode's line
/// separators and direction overrides, which could rewrite the line. Also noncharacters, which SVG
/// cannot contain.
fn breaks_a_line(c: char) -> bool {
    let separates_lines = matches!(c, '\u{2028}' | '\u{2029}');
    let rules_direction = matches!(c, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}');
    let is_none = matches!(c, '\u{FFFE}' | '\u{FFFF}');
    c.is_control() || separates_lines || rules_direction || is_none
}

fn bad_csv(error: &csv::Error, line: Option<u64>) -> BadList {
    let what = match error.kind() {
        csv::ErrorKind::Utf8 { .. } => "the line is not text, expected UTF-8".to_owned(),
        _ => format!("not CSV: {error}"),
    };
    BadList { line, what }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(list: &str) -> Result<Vec<Customer>, (Option<u64>, String)> {
        read_customers(list.as_bytes()).map_err(|bad| (bad.line(), bad.to_string()))
    }

    #[test]
    fn there_are_four_default_customers() {
        let customers: Vec<_> = default_customers().into_iter().map(|c| (c.name, c.kind.name())).collect();
        assert_eq!(
            customers,
            [
                ("Customer 1".into(), "WITHDRAW_MONEY"),
                ("Customer 2".into(), "CHECK_BALANCE"),
                ("Customer 3".into(), "WITHDRAW_MONEY"),
                ("Customer 4".into(), "WITHDRAW_MONEY"),
            ]
        );
    }

    #[test]
    fn a_list_is_read_in_order_whatever_its_line_ends_and_blanks() {
        let list = "\u{feff}name,type\r\n Ann , WITHDRAW_MONEY\r\n\r\n\"Bob, the builder\",CHECK_BALANCE";
        let customers = read(list).unwrap();
        assert_eq!(customers.len(), 2);
        assert_eq!((&*customers[0].name, customers[0].kind), ("Ann", Kind::WithdrawMoney));
        assert_eq!((&*customers[1].name, customers[1].kind), ("Bob, the builder", Kind::CheckBalance));
    }

    #[test]
    fn an_error_is_reported_with_its_line() {
        let cases = [
            ("", None, "the list is empty, expected the header name,type"),
            ("name,type\n", None, "no customer follows the header, expected lines such as Ann,WITHDRAW_MONEY"),
            ("Ann,WITHDRAW_MONEY\n", Some(1), "the header is \"Ann,WITHDRAW_MONEY\", expected name,type"),
            (
                "name,type\nAnn,\"CHECK_BALANCE\nBob,CHECK_BALANCE\n",
                Some(2),
                "a quotation mark is not closed, expected an even number of them",
            ),
            ("name,type\nAnn\n", Some(2), "1 value found, expected two: name,type"),
            ("name,type\nAnn,CHECK_BALANCE,x\n", Some(2), "3 values found, expected two: name,type"),
            (
                "name,type\nAnn,CHECK_BALANCE\n5\" disk,CHECK_BALANCE\nBob,CHECK_BALANCE\n",
                Some(3),
                "a quotation mark is not closed, expected an even number of them",
            ),
            ("name,type\n\n ,CHECK_BALANCE\n", Some(3), "the name is empty, expected name,type"),
            ("name,type\rAnn,CHECK_BALANCE\r\r,CHECK_BALANCE\r", Some(4), "the name is empty, expected name,type"),
            (
                "name,type\nAnn,CHECK_BALANCE\nBob,DEPOSIT\n",
                Some(3),
                "unknown type \"DEPOSIT\", expected WITHDRAW_MONEY or CHECK_BALANCE",
            ),
            (
                "name,type\n\"A\nB\",CHECK_BALANCE\n",
                Some(2),
                "the name \"A\\nB\" has a control character, expected a name that fits on a line",
            ),
        ];
        for (list, line, what) in cases {
            assert_eq!(read(list), Err((line, what.to_owned())), "{list:?}");
        }
    }

    #[test]
    fn a_list_has_a_limit() {
        let list = "name,type\nAnn,CHECK_BALANCE\nBob,CHECK_BALANCE\n";
        assert_eq!(read_at_most(2, list.as_bytes()).unwrap().len(), 2);
        let bad = read_at_most(1, list.as_bytes()).unwrap_err();
        assert_eq!(bad.line(), Some(3));
        assert_eq!(bad.to_string(), "the list has more than 1 customers, expected a shorter one");
    }

    #[test]
    fn invalid_utf8_is_reported_with_its_line() {
        let bad = read_customers(&b"name,type\nAnn,CHECK_BALANCE\n\xff\xfe,CHECK_BALANCE\n"[..]).unwrap_err();
        assert_eq!((bad.line(), bad.to_string().as_str()), (Some(3), "the line is not text, expected UTF-8"));
    }
}
