"""The app store: listings that nodes sign and share, searched and published through dux-registryd."""
