//! How wide a text is in a picture, whose fonts are those of the machine that shows it.

use unicode_width::UnicodeWidthChar;

/// Widths of the characters from space to `~` in Helvetica, in thousandths of the font size.
#[rustfmt::skip]
const ASCII: [u16; 95] = [
    278, 278, 355, 556, 556, 889, 667, 191, 333, 333, 389, 584, 278, 333, 278, 278,
    556, 556, 556, 556, 556, 556, 556, 556, 556, 556, 278, 278, 584, 584, 584, 556,
    1015, 667, 667, 722, 722, 667, 611, 778, 722, 278, 500, 667, 556, 833, 722, 778,
    667, 778, 722, 667, 611, 722, 667, 944, 667, 667, 611, 278, 278, 278, 469, 556,
    333, 556, 556, 500, 556, 556, 278, 556, 556, 222, 222, 500, 222, 833, 556, 556,
    556, 556, 333, 500, 278, 556, 500, 722, 500, 500, 500, 334, 260, 334, 584,
];

/// Others of the usual fonts are wider by this factor at most.
const WIDEST_FONT: f64 = 1.15;

/// An upper estimate of the width of the text, as a multiple of the font size.
pub(crate) fn width(text: &str) -> f64 {
    text.chars().map(of_char).sum()
}

fn of_char(letter: char) -> f64 {
    let index = (letter as usize).checked_sub(0x20);
    if let Some(&thousandths) = index.and_then(|index| ASCII.get(index)) {
        return f64::from(thousandths) / 1000.0 * WIDEST_FONT;
    }
    match letter.width().unwrap_or(0) {
        0 => 0.0,
        1 if letter.is_uppercase() => 0.75 * WIDEST_FONT,
        1 => 0.6 * WIDEST_FONT,
        // Chinese, Japanese and Korean characters are squares; emoji are somewhat wider.
        _ if letter.is_alphabetic() => 1.0,
        _ => 1.4,
    }
}

/// The begin of the text and `…`, if it is wider than this; else the text.
pub(crate) fn shortened(text: &str, widest: f64) -> String {
    if width(text) <= widest {
        return text.to_owned();
    }
    let mut left = widest - width("…");
    let fits = |letter: &char| {
        left -= of_char(*letter);
        left >= 0.0
    };
    text.chars().take_while(fits).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_letters_need_more_space_than_narrow_ones() {
        assert!(width("WWWW") > 3.0 * width("iiii"));
        assert!(width("漢字") == 2.0 && width("é") == width("e\u{301}") + width("é") - width("e"));
        assert_eq!((width(""), width("\u{301}\u{200d}")), (0.0, 0.0));
        assert_eq!(ASCII[usize::from(b'W' - b' ')], 944);
        assert_eq!(ASCII[usize::from(b'i' - b' ')], 222);
    }

    #[test]
    fn a_text_is_shortened_only_if_it_does_not_fit() {
        for text in
            ["Customer 1", "WWWWWWWWWWWWWWWWWWWWWWWW", "山田太郎山田太郎山田太郎", "iiiiiiiiiiiiiiiiiiiiiiiiiiii", ""]
        {
            for widest in [3.0, 6.0, 14.0] {
                let short = shortened(text, widest);
                assert!(width(&short) <= widest, "{short}");
                assert_eq!(short == text, width(text) <= widest, "{short}");
            }
        }
        assert_eq!(shortened("iiiiiiiiiiiiiiiiiiiiiiiiiiii", 14.0).chars().count(), 28);
    }
}
