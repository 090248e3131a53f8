"""The stages of curation, a file each, in the order of the paper's section 3.1: what each is told, and how it runs."""
