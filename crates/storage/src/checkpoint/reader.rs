//! Reads a checkpoint's file from its first to its last byte, and believes nothing that was not checked.

use std::sync::Arc;

use bytes::Bytes;
use meridian_files::{File, read_exact_at};
use meridian_types::{Key, Timestamp};

use super::format::{self, Body, FRAME_BYTES, Footer, Header, Sums, Unreadable};
use crate::error::CheckpointFault;
use crate::store::VersionWrite;

/// A file that is read frame by frame, in bounded steps.
pub(crate) struct Reader {
    file: Arc<dyn File>,
    /// Of the file.
    size: u64,
    at: u64,
    sums: Sums,
    versions: u64,
    /// The last version read.
    last: Option<(Key, Timestamp)>,
}

/// What follows in a file.
pub(crate) enum Next {
    Versions(Vec<VersionWrite>),
    /// The end: all of the file is what its writer wrote.
    End(Footer),
}

impl Reader {
    /// Reads the header.
    pub fn open(file: Arc<dyn File>) -> Result<(Header, Self), CheckpointFault> {
        let size = file.len()?;
        let mut reader = Self {
            file,
            size,
            at: 0,
            sums: Sums::default(),
            versions: 0,
            last: None,
        };
        let (body, crc) = reader.frame()?;
        reader.sums.add(crc);
        match body {
            Body::Header(header) => Ok((header, reader)),
            _ => Err(reader.corrupt("it does not begin with a header")),
        }
    }

    /// How many bytes were read.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// The size of the file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The next frame. Not to be called again after the end.
    pub fn next(&mut self) -> Result<Next, CheckpointFault> {
        let (body, crc) = self.frame()?;
        match body {
            Body::Header(_) => Err(self.corrupt("a second header")),
            Body::Versions(versions) => {
                self.sums.add(crc);
                self.take(&versions)?;
                Ok(Next::Versions(versions))
            }
            Body::Footer(footer) => self.end(footer).map(Next::End),
        }
    }

    fn take(&mut self, versions: &[VersionWrite]) -> Result<(), CheckpointFault> {
        for write in versions {
            let follows = self.last.as_ref().is_none_or(|(key, timestamp)| {
                *key < write.key || (*key == write.key && *timestamp > write.timestamp)
            });
            if !follows {
                return Err(self.corrupt("its versions are out of order"));
            }
            self.last = Some((write.key.clone(), write.timestamp));
        }
        self.versions += versions.len() as u64;
        Ok(())
    }

    fn end(&self, footer: Footer) -> Result<Footer, CheckpointFault> {
        let found = (self.sums.frames, self.sums.sums, self.versions);
        if found != (footer.frames, footer.sums, footer.versions) {
            return Err(self.corrupt("its footer speaks of other contents"));
        }
        if self.at != self.size {
            return Err(self.corrupt("something follows its footer"));
        }
        Ok(footer)
    }

    fn frame(&mut self) -> Result<(Body, u32), CheckpointFault> {
        let start = self.exactly(FRAME_BYTES)?;
        let start = start.as_ref().try_into().ok().and_then(format::frame_start);
        let (length, crc) = start.ok_or_else(|| self.corrupt("a frame of an impossible length"))?;
        let body = self.exactly(length)?;
        if format::body_crc(&body) != crc {
            return Err(self.corrupt("a frame's crc is wrong"));
        }
        match format::decode(&body) {
            Ok(body) => Ok((body, crc)),
            Err(Unreadable::Format(found)) => Err(CheckpointFault::UnknownFormat { found }),
            Err(Unreadable::Corrupt(what)) => Err(self.corrupt(what)),
        }
    }

    fn exactly(&mut self, length: usize) -> Result<Bytes, CheckpointFault> {
        let end = self.at + length as u64;
        if end > self.size {
            return Err(self.corrupt("it ends in the middle"));
        }
        let bytes = read_exact_at(&*self.file, self.at, length)?;
        self.at = end;
        Ok(bytes)
    }

    fn corrupt(&self, what: &'static str) -> CheckpointFault {
        CheckpointFault::Corrupt { at: self.at, what }
    }
}
