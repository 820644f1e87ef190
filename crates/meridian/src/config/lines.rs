//! Where a field stands in the file, for messages.

use toml_edit::{Document, Item};

/// The places of a file's fields.
pub(super) struct Lines<'a> {
    text: &'a str,
    document: Option<Document<&'a str>>,
}

impl<'a> Lines<'a> {
    /// The places in this text. A text that is no TOML has none.
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            text,
            document: Document::parse(text).ok(),
        }
    }

    /// The line of a field of `[cluster]`, or of the section when it does not have the field. Counts from 1.
    pub(super) fn cluster(&self, path: &[&str]) -> Option<usize> {
        self.line(self.document.as_ref()?.get("cluster")?, path)
    }

    /// The line of a field of the n-th `[[cluster.<list>]]`, or of the section. Counts from 1.
    pub(super) fn listed(&self, list: &str, index: usize, field: &str) -> Option<usize> {
        let lists = self.document.as_ref()?.get("cluster")?.get(list)?;
        let table = lists.as_array_of_tables()?.get(index)?;
        let section = table.span().map(|span| self.line_at(span.start));
        let field = table.get(field).and_then(Item::span);
        field.map(|span| self.line_at(span.start)).or(section)
    }

    /// The line of a field of the n-th `[[node]]`, or of the section. Counts from 1.
    pub(super) fn node(&self, index: usize, path: &[&str]) -> Option<usize> {
        let node = self
            .document
            .as_ref()?
            .get("node")?
            .as_array_of_tables()?
            .get(index)?;
        // The table's own span begins with its header.
        let section = node.span().map(|span| self.line_at(span.start));
        let mut item = node.get(path.first()?)?;
        for name in &path[1..] {
            match item.get(name) {
                Some(inner) => item = inner,
                None => break,
            }
        }
        item.span().map(|span| self.line_at(span.start)).or(section)
    }

    /// Whether the n-th `[[node]]` has the field.
    pub(super) fn node_has(&self, index: usize, path: &[&str]) -> bool {
        let has = || {
            let node = self
                .document
                .as_ref()?
                .get("node")?
                .as_array_of_tables()?
                .get(index)?;
            let mut item = node.get(path.first()?)?;
            for name in path.get(1..)? {
                item = item.get(name)?;
            }
            Some(())
        };
        has().is_some()
    }

    fn line(&self, section: &Item, path: &[&str]) -> Option<usize> {
        let mut item = section;
        for name in path {
            match item.get(name) {
                Some(inner) => item = inner,
                None => break,
            }
        }
        item.span().map(|span| self.line_at(span.start))
    }

    fn line_at(&self, offset: usize) -> usize {
        let before = self.text.get(..offset).unwrap_or_default();
        before.bytes().filter(|byte| *byte == b'\n').count() + 1
    }
}
