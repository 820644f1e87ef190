//! Parts of a text file that this program writes: what stands between two marks, the rest being somebody else's.

use std::path::Path;

/// The part of `text` between the marks of `name`.
pub fn part<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (open, close) = marks(name);
    let begin = text.find(&open)? + open.len();
    let end = begin + text.get(begin..)?.find(&close)?;
    text.get(begin..end)
}

/// Puts `new` between the marks of `name` in the file.
pub fn replace(
    file: &Path,
    name: &str,
    new: impl FnOnce(&str) -> Result<String, String>,
) -> Result<(), String> {
    let shown = file.display();
    let text = std::fs::read_to_string(file).map_err(|error| format!("{shown}: {error}"))?;
    let old = part(&text, name).ok_or_else(|| format!("{shown} has no marks {:?}", marks(name)))?;
    let new = new(old)?;
    let (open, close) = marks(name);
    let changed = text.replacen(
        &format!("{open}{old}{close}"),
        &format!("{open}\n{}\n{close}", new.trim_matches('\n')),
        1,
    );
    std::fs::write(file, changed).map_err(|error| format!("{shown}: {error}"))
}

/// The cells of a table's rows, without its head.
pub fn rows(table: &str) -> impl Iterator<Item = Vec<&str>> {
    let lines = table.lines().filter(|line| line.starts_with('|')).skip(2);
    lines.map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
}

fn marks(name: &str) -> (String, String) {
    (format!("<!-- {name} -->"), format!("<!-- end of {name} -->"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_between_the_marks_is_replaced() {
        let directory = std::env::temp_dir().join(format!("document-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let file = directory.join("text.md");
        std::fs::write(
            &file,
            "above\n<!-- table -->\nold\n<!-- end of table -->\nbelow\n",
        )
        .unwrap();
        replace(&file, "table", |old| {
            assert_eq!(old.trim(), "old");
            Ok("| a |\n|---|\n| new |".to_owned())
        })
        .unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(
            text,
            "above\n<!-- table -->\n| a |\n|---|\n| new |\n<!-- end of table -->\nbelow\n"
        );
        let table = part(&text, "table").unwrap();
        assert_eq!(rows(table).collect::<Vec<_>>(), [["new"]]);
        assert!(replace(&file, "another", |_| Ok(String::new())).is_err());
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
