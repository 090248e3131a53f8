"""What a curation run did, for a person to judge in five minutes: one HTML page and PNG plots."""
