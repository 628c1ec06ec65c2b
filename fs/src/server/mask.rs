//! Paths that are not served: an empty directory stands at each.

use std::collections::HashMap;
use std::sync::Arc;

use crate::proto::Name;
use crate::server::ServerError;

/// The hidden places below one directory.
#[derive(Debug, Default)]
pub(super) struct Mask {
    children: HashMap<Name, Masked>,
}

/// What a name below a masked directory is.
#[derive(Debug, Clone)]
pub(super) enum Masked {
    /// It is hidden itself.
    Hidden,
    /// Something below it is.
    Inside(Arc<Mask>),
}

impl Mask {
    /// From absolute paths inside the served tree, like `/proc`.
    pub(super) fn new(paths: &[Vec<u8>]) -> Result<Self, ServerError> {
        let mut names = Vec::new();
        for path in paths {
            let wrong = || ServerError::Excluded(String::from_utf8_lossy(path).into_owned());
            let parts: Result<Vec<Name>, _> = path
                .split(|byte| *byte == b'/')
                .filter(|part| !part.is_empty())
                .map(Name::new)
                .collect();
            let parts = parts.map_err(|_| wrong())?;
            if parts.is_empty() {
                return Err(wrong());
            }
            names.push(parts);
        }
        let paths: Vec<&[Name]> = names.iter().map(Vec::as_slice).collect();
        Ok(Self::of(&paths))
    }

    fn of(paths: &[&[Name]]) -> Self {
        let mut below: HashMap<&Name, Vec<&[Name]>> = HashMap::new();
        for path in paths {
            if let Some((first, rest)) = path.split_first() {
                below.entry(first).or_default().push(rest);
            }
        }
        let children = below
            .into_iter()
            .map(|(name, rests)| {
                let masked = match rests.iter().any(|rest| rest.is_empty()) {
                    true => Masked::Hidden,
                    false => Masked::Inside(Arc::new(Self::of(&rests))),
                };
                (name.clone(), masked)
            })
            .collect();
        Self { children }
    }

    /// What is known of `name`.
    pub(super) fn get(&self, name: &Name) -> Option<&Masked> {
        self.children.get(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_follow_paths() {
        let name = |text: &str| Name::new(text.as_bytes()).unwrap();
        let mask =
            Mask::new(&[b"/proc".to_vec(), b"/var/run/".to_vec(), b"/proc/sys".to_vec()]).unwrap();
        assert!(matches!(mask.get(&name("proc")), Some(Masked::Hidden)));
        assert!(mask.get(&name("usr")).is_none());
        let Some(Masked::Inside(var)) = mask.get(&name("var")) else { panic!("/var") };
        assert!(matches!(var.get(&name("run")), Some(Masked::Hidden)));
        assert!(Mask::new(&[b"/".to_vec()]).is_err());
        assert!(Mask::new(&[b"/a/../b".to_vec()]).is_err());
    }
}
