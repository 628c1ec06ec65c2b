//! A home's files served to where the app is.
