//! Tables in pages that are otherwise written by hand, each between two lines that mark it.

use std::{fs, io, path::Path};

/// The lines between which a table of this name stands.
fn lines(name: &str) -> [String; 2] {
    [
        format!("<!-- {name} -->\n"),
        format!("<!-- end of {name} -->"),
    ]
}

/// The marks of a table that is yet to come.
pub(crate) fn marks(name: &str) -> String {
    let [begin, end] = lines(name);
    format!("{begin}{end}\n")
}

/// Writes the page with another table between its marks.
pub(crate) fn write(path: &Path, page: &str, name: &str, table: &str) -> io::Result<()> {
    let [begin, _] = lines(name);
    match replaced(page, name, table) {
        Some(page) => fs::write(path, page),
        None => Err(io::Error::other(format!(
            "{} lacks the line `{}` and its end",
            path.display(),
            begin.trim_end()
        ))),
    }
}

fn replaced(page: &str, name: &str, table: &str) -> Option<String> {
    let [begin, end] = lines(name);
    let (before, rest) = page.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!("{before}{begin}{table}{end}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_table_of_that_name_is_replaced() {
        let page = format!("before\n{}between\n{}after\n", marks("one"), marks("two"));
        let replaced = replaced(&page, "two", "new\n").unwrap();
        let [begin, end] = lines("two");
        assert_eq!(
            replaced,
            format!(
                "before\n{}between\n{begin}new\n{end}\nafter\n",
                marks("one")
            )
        );
        assert_eq!(super::replaced("no marks", "two", "new\n"), None);
    }
}
