"""Common parts of the shop's services: settings, database, problem details, paging, resources."""
