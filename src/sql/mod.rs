//! What a statement text does, by a lexer: no grammar, no allocation, no catalogue.
