//! The time that an answer is made, as its `Date` says it.

use std::cell::RefCell;

use http::header::{DATE, Entry};
use http::{HeaderMap, HeaderValue};
use jiff::Timestamp;

use crate::conditional::http_date;

/// A second, and how it's written.
#[derive(Default)]
struct Written {
    second: i64,
    text: Option<HeaderValue>,
}

thread_local! {
    /// The present second of this thread: many answers are of the same.
    static WRITTEN: RefCell<Written> = RefCell::default();
}

/// Puts the present time on an answer, unless there is one already. Over HTTP/1 it's hyper that does.
pub fn stamp(headers: &mut HeaderMap) {
    if let Entry::Vacant(place) = headers.entry(DATE)
        && let Some(date) = date_at(Timestamp::now())
    {
        place.insert(date);
    }
}

fn date_at(now: Timestamp) -> Option<HeaderValue> {
    WRITTEN.with_borrow_mut(|written| {
        if written.text.is_none() || written.second != now.as_second() {
            let text = http_date(now).and_then(|text| HeaderValue::try_from(text).ok());
            *written = Written { second: now.as_second(), text };
        }
        written.text.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_second_is_written_as_it_is() {
        let at = |second| date_at(Timestamp::from_second(second).unwrap()).unwrap();
        assert_eq!(at(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(at(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(at(784_111_778), "Sun, 06 Nov 1994 08:49:38 GMT");
    }

    #[test]
    fn an_app_may_say_another() {
        let mut headers = HeaderMap::new();
        stamp(&mut headers);
        assert!(headers.contains_key(DATE));
        headers.insert(DATE, HeaderValue::from_static("then"));
        stamp(&mut headers);
        assert_eq!(headers[DATE], "then");
    }
}
