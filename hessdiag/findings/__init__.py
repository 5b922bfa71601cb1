"""The papers' findings as studies: declared before they are run, with a verdict each."""
