"""Rules from clusters to classes: named protocols, votes, mappings."""
