"""The processes of Kurir, one package each; none imports another."""
