//! nginx: the entries of a `map` from tokens to who has them.

use super::super::rows::{Defaults, LineFault, from_defaults};
use super::{Found, Refused, rename};
use crate::key::Token;
use crate::manage::{ImportedKey, ImportedSecret};

/// A word of the file, or a mark between words.
#[derive(Debug, PartialEq, Eq)]
enum Piece {
    /// A word, and whether it stood in quotes.
    Word(String, Quoted),
    /// `{`
    Open,
    /// `}`
    Close,
    /// `;`
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quoted {
    Yes,
    No,
}

type Placed = (usize, Piece);

/// One statement: the line it begins on, and its words.
type Statement = (usize, Vec<(String, Quoted)>);

/// A map, or the bare entries of a file that a map includes.
#[derive(Default)]
struct Map {
    line: usize,
    variables: String,
    entries: Vec<Statement>,
}

pub(super) fn read(text: &str, defaults: &Defaults) -> Result<Found, LineFault> {
    let mut found = Found::default();
    for (line, words) in the_map(pieces(text)?)?.entries {
        let entry = entry(line, &words, defaults);
        if let Some(entry) = entry.transpose() {
            found.take(line, entry);
        }
    }
    Ok(found)
}

/// The key of one entry; none where it is a setting of the map.
fn entry(line: usize, words: &[(String, Quoted)], defaults: &Defaults) -> Result<Option<ImportedKey>, Refused> {
    let faulty = |cause: &str| Err(Refused::Faulty(cause.to_owned()));
    let (pattern, quoted, value) = match words {
        [(setting, Quoted::No)] if setting == "hostnames" || setting == "volatile" => return Ok(None),
        [(setting, Quoted::No), _] if setting == "default" => return Ok(None),
        [(setting, Quoted::No), _] if setting == "include" => {
            return faulty("includes another file; import that one by itself");
        }
        [(pattern, quoted), (value, _)] => (pattern.as_str(), *quoted, value.as_str()),
        _ => return faulty("is no entry of a map: expected a token and a value"),
    };
    if quoted == Quoted::No && pattern.starts_with('~') || pattern.starts_with("~*") {
        return faulty("is a regular expression, which stands for no one token");
    }
    // `\default` is how the word itself is written.
    let pattern = pattern.strip_prefix('\\').unwrap_or(pattern);
    let token = match pattern.split_once(' ') {
        None => pattern,
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
        Some(_) => return faulty("is no token: it has a space, and does not begin with Bearer"),
    };
    if matches!(value, "" | "0") {
        return Err(Refused::Ended("its value says that it is refused".to_owned()));
    }
    let mut key = from_defaults(line, ImportedSecret::Token(Token::from_text(token)), defaults)?;
    // A value that only says yes names nobody.
    if !matches!(value, "1" | "true" | "yes" | "ok" | "on") {
        rename(&mut key, value)?;
    }
    Ok(Some(key))
}

/// The one map of the file.
fn the_map(pieces: Vec<Placed>) -> Result<Map, LineFault> {
    let mut maps: Vec<Map> = Vec::new();
    let mut bare = Map::default();
    let mut open: Option<Map> = None;
    let mut others = 0_usize;
    let mut words: Vec<(String, Quoted)> = Vec::new();
    let mut begun = 1;
    for (line, piece) in pieces {
        match piece {
            Piece::Word(word, quoted) => {
                if words.is_empty() {
                    begun = line;
                }
                words.push((word, quoted));
            }
            Piece::End => {
                let statement = (begun, std::mem::take(&mut words));
                match &mut open {
                    Some(map) => map.entries.push(statement),
                    None if others == 0 => bare.entries.push(statement),
                    None => {}
                }
            }
            Piece::Open => {
                let named = std::mem::take(&mut words);
                let mut names = named.iter().map(|(word, _)| word.as_str());
                match (names.next(), names.next(), names.next(), names.next()) {
                    (Some("map"), Some(from), Some(to), None) if open.is_none() => {
                        open = Some(Map { line: begun, variables: format!("{from} {to}"), entries: Vec::new() });
                    }
                    _ => others += 1,
                }
            }
            Piece::Close => match open.take() {
                Some(map) => maps.push(map),
                None if others > 0 => others -= 1,
                None => return Err(LineFault { line, cause: "closes a block that was not opened".to_owned() }),
            },
        }
    }
    if let Some(map) = open {
        return Err(LineFault { line: map.line, cause: "the map is not closed".to_owned() });
    }
    if !words.is_empty() {
        return Err(LineFault { line: begun, cause: "does not end with ;".to_owned() });
    }
    match maps.len() {
        0 => Ok(bare),
        1 => Ok(maps.pop().unwrap_or_default()),
        _ => {
            let all: Vec<_> = maps.iter().map(|map| format!("line {}: {}", map.line, map.variables)).collect();
            let cause = format!("the file has several maps ({}); put the one to import into a file", all.join(", "));
            Err(LineFault { line: maps.first().map_or(1, |map| map.line), cause })
        }
    }
}

/// The file cut up as nginx does it.
fn pieces(text: &str) -> Result<Vec<Placed>, LineFault> {
    let mut pieces = Vec::new();
    let mut line = 1;
    let mut rest = text.chars().peekable();
    while let Some(next) = rest.next() {
        match next {
            '\n' => line += 1,
            ' ' | '\t' | '\r' => {}
            '#' => while rest.next_if(|&next| next != '\n').is_some() {},
            ';' => pieces.push((line, Piece::End)),
            '{' => pieces.push((line, Piece::Open)),
            '}' => pieces.push((line, Piece::Close)),
            quote @ ('"' | '\'') => {
                let begun = line;
                let mut word = String::new();
                loop {
                    match rest.next() {
                        None => return Err(LineFault { line: begun, cause: "the quote is not closed".to_owned() }),
                        Some(next) if next == quote => break,
                        Some('\\') => word.extend(escaped(rest.next())),
                        Some(next) => {
                            line += usize::from(next == '\n');
                            word.push(next);
                        }
                    }
                }
                pieces.push((begun, Piece::Word(word, Quoted::Yes)));
            }
            next => {
                let mut word = String::new();
                let mut next = Some(next);
                while let Some(letter) = next {
                    match letter {
                        '\\' if !word.is_empty() => word.extend(escaped(rest.next())),
                        letter => word.push(letter),
                    }
                    next = rest.next_if(|next| !matches!(next, ' ' | '\t' | '\r' | '\n' | ';' | '{' | '}'));
                }
                pieces.push((line, Piece::Word(word, Quoted::No)));
            }
        }
    }
    Ok(pieces)
}

/// What a backslash and the next character stand for.
fn escaped(next: Option<char>) -> impl Iterator<Item = char> {
    let backslash = (!matches!(next, Some('"' | '\'' | '\\' | ' ' | ';' | '{' | '}'))).then_some('\\');
    backslash.into_iter().chain(next)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{defaults, faults, token_of};
    use super::super::{Groups, System, read};

    fn keys(text: &str) -> Vec<(usize, String, String)> {
        let found = read(System::Nginx, text, &defaults(), Groups::AsProp).expect("a good map");
        found.keys.iter().map(|key| (key.line, key.name.clone(), token_of(key).to_owned())).collect()
    }

    #[test]
    fn the_entries_of_a_map_are_keys() {
        let text = "
# who may come in
map $http_authorization $client {
    default          \"\";
    \"Bearer tok-1\"   ann; # an old one
    'Bearer tok;2'   \"bob the builder\";
    \"Bearer tok-3\"   1;
    \"Bearer tok-4\"   0;
}
server { listen 80; location / { if ($client = '') { return 401; } } }
";
        let expected = [(5, "ann", "tok-1"), (6, "bob the builder", "tok;2"), (7, "imported-7", "tok-3")]
            .map(|(line, name, token)| (line, name.to_owned(), token.to_owned()));
        assert_eq!(keys(text), expected);
        let found = read(System::Nginx, text, &defaults(), Groups::AsProp).expect("a good map");
        assert_eq!(found.left_out[0].to_string(), "8: its value says that it is refused");
    }

    #[test]
    fn a_file_that_a_map_includes_is_read_too() {
        assert_eq!(keys("tok-1 ann;\n\\default bob;\n")[1], (2, "bob".to_owned(), "default".to_owned()));
    }

    #[test]
    fn what_is_no_token_is_named_by_its_line_and_not_quoted() {
        let text = "map $http_x_key $client {\n ~^geheim ann;\n include more.map;\n geheim;\n \"Basic geheim\" x;\n}";
        let told = faults(System::Nginx, text);
        assert_eq!(told.len(), 4, "{told:?}");
        assert!(told[0].starts_with("2: is a regular expression"));
        assert!(told[1].starts_with("3: includes another file"));
        assert!(told[2].starts_with("4: is no entry of a map"));
        assert!(told[3].starts_with("5: is no token"));
        assert!(!told.concat().contains("geheim"));
    }

    #[test]
    fn a_file_with_several_maps_is_refused_with_their_names() {
        let told = faults(System::Nginx, "map $a $b { x y; }\nmap $c $d { x y; }\n");
        assert!(told[0].starts_with("1: the file has several maps (line 1: $a $b, line 2: $c $d)"), "{told:?}");
        assert!(faults(System::Nginx, "map $a $b { x y;")[0].starts_with("1: the map is not closed"));
        assert!(faults(System::Nginx, "\"x y;")[0].starts_with("1: the quote is not closed"));
        assert!(faults(System::Nginx, "x y")[0].starts_with("1: does not end"));
        assert!(faults(System::Nginx, "}")[0].starts_with("1: closes a block"));
    }
}
