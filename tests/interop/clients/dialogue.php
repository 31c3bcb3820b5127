<?php
// As Symfony's SendmailTransport speaks: two pipes, one command at a time. Arguments: the command, sender, recipient.
[, $command, $from, $to] = $argv;
$process = proc_open($command, [['pipe', 'r'], ['pipe', 'w']], $pipes);
$say = function (string $line, string $want) use ($pipes): void {
    fwrite($pipes[0], $line);
    fflush($pipes[0]);
    do {
        $answer = (string) fgets($pipes[1]);
    } while (substr($answer, 3, 1) === '-');
    if (strncmp($answer, $want, 3) !== 0) {
        fwrite(STDERR, "$line: $answer");
        exit(1);
    }
};
$say('', '220');
$say("EHLO [127.0.0.1]\r\n", '250');
$say("MAIL FROM:<$from>\r\n", '250');
$say("RCPT TO:<$to>\r\n", '250');
$say("DATA\r\n", '354');
$say("Subject: from php\r\n\r\nx\r\n.\r\n", '250');
$say("QUIT\r\n", '221');
