"""Tests of the email sender against real mail servers."""
