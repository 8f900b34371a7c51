//! An answer before it is sent, with all that shall go wrong while it is.

use std::ops::Range;

use super::fault::{Cut, Stall};
use super::record::Request;
use crate::images::Content;

/// How the end of a body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    Length,
    Chunked,
    Close,
}

#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) version: &'static str,
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) content: Content,
    /// Which bytes of `content` are sent.
    pub(super) range: Range<u64>,
    /// How many bytes follow that are none of it.
    pub(super) extra: u64,
    pub(super) framing: Framing,
    pub(super) stall_head: Option<Stall>,
    pub(super) stall: Option<(u64, Stall)>,
    pub(super) cut_head: Option<Cut>,
    pub(super) cut: Option<(u64, Cut)>,
    /// Bytes per second.
    pub(super) rate: Option<u64>,
    /// Offsets in `content` of bytes that are sent wrong.
    pub(super) flips: Vec<u64>,
}

impl Answer {
    pub(super) fn new(status: u16, content: Content) -> Answer {
        Answer {
            version: "HTTP/1.1",
            status,
            headers: Vec::new(),
            range: 0..content.size(),
            content,
            extra: 0,
            framing: Framing::Length,
            stall_head: None,
            stall: None,
            cut_head: None,
            cut: None,
            rate: None,
            flips: Vec::new(),
        }
    }

    /// The content, or the single range of it that was asked for.
    pub(super) fn ranged(content: Content, request: &Request) -> Answer {
        let size = content.size();
        let mut answer = Answer::new(200, content);
        answer.set("accept-ranges", "bytes");
        let Some(range) = request.header("range").and_then(|value| parse_range(value, size)) else { return answer };
        if range.start >= size {
            let mut answer = Answer::new(416, Content::Bytes("".into()));
            answer.set("content-range", &format!("bytes */{size}"));
            return answer;
        }
        answer.status = 206;
        answer.set("content-range", &format!("bytes {}-{}/{size}", range.start, range.end - 1));
        answer.range = range;
        answer
    }

    /// The same with everything, though a part was asked for.
    pub(super) fn whole(mut self) -> Answer {
        self.remove("content-range");
        Answer { status: 200, range: 0..self.content.size(), ..self }
    }

    pub(super) fn set(&mut self, name: &str, value: &str) {
        self.remove(name);
        self.headers.push((name.into(), value.into()));
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.headers.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
    }

    pub(super) fn length(&self) -> u64 {
        (self.range.end - self.range.start).saturating_add(self.extra)
    }

    pub(super) fn head(&self, closes: bool) -> String {
        let reason = match self.status {
            200 => "OK",
            206 => "Partial Content",
            _ => "Whatever",
        };
        let mut head = format!("{} {} {reason}\r\n", self.version, self.status);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        match self.framing {
            Framing::Length if self.status != 304 && !self.states_length() => {
                head += &format!("content-length: {}\r\n", self.length())
            }
            Framing::Chunked => head += "transfer-encoding: chunked\r\n",
            _ => {}
        }
        if closes && self.version == "HTTP/1.1" {
            head += "connection: close\r\n";
        }
        head + "\r\n"
    }

    fn states_length(&self) -> bool {
        self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length"))
    }

    /// The bytes of the body from `at`, at most `limit`, counted from the body's own beginning.
    pub(super) fn read(&self, at: u64, limit: u64) -> Vec<u8> {
        let held = self.range.end - self.range.start;
        if at >= held {
            return vec![0; limit.min(self.extra - (at - held)) as usize];
        }
        let from = self.range.start + at;
        let to = self.range.end.min(from + limit);
        let mut bytes = self.content.read(from..to).to_vec();
        for flip in self.flips.iter().filter(|flip| (from..to).contains(flip)) {
            bytes[(flip - from) as usize] ^= 0x55;
        }
        bytes
    }
}

/// A range that may lie outside; `None` for what is ignored.
fn parse_range(value: &str, size: u64) -> Option<Range<u64>> {
    let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
    if first.is_empty() {
        return Some(size.saturating_sub(last.parse().ok()?)..size);
    }
    let start: u64 = first.parse().ok()?;
    let end = if last.is_empty() { size } else { last.parse::<u64>().ok()?.saturating_add(1).min(size) };
    Some(start..end.max(start))
}
