# Verifies the messages of a folder with Mail::DKIM: verify.pl FOLDER NAME RECORD [NAME RECORD ...]
# prints each signature's result; the records replace the DNS.
use strict;
use warnings;
use Mail::DKIM::Verifier;
use Mail::DKIM::PublicKey;

my ($folder, %records) = @ARGV;

{
    no warnings 'redefine';
    *Mail::DKIM::PublicKey::fetch_async = sub {
        my ($class, %asked) = @_;
        my $success = $asked{Callbacks}{Success} || sub { $_[0] };
        my $record = $records{"$asked{Selector}._domainkey.$asked{Domain}"};
        return sub { $success->() } unless $record;
        my $key = $class->parse($record);
        @$key{qw(Selector Domain)} = @asked{qw(Selector Domain)};
        return sub { $key->check && $success->($key) };
    };
}

for my $path (sort { ($a =~ /(\d+)\.eml/)[0] <=> ($b =~ /(\d+)\.eml/)[0] } glob("$folder/*.eml")) {
    open my $file, '<:raw', $path or die "$path: $!";
    local $/;
    my $verifier = Mail::DKIM::Verifier->new();
    $verifier->PRINT(<$file>);
    $verifier->CLOSE();
    print $_->result_detail, "\n" for $verifier->signatures;
}
