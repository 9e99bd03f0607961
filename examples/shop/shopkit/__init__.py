"""What the shop's services have in common: settings, database, problem details, paging, resources."""
