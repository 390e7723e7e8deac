"""Tests of the email sender's pure parts."""
