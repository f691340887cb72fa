#!/usr/bin/env bash
# Polls every 5 s whether AWS is about to take this spot instance back, and drains it, so that Ray puts nothing new here
# and knows the loss for foreseen. Asks the instance's own metadata only.
set -u
export RAY_AUTH_MODE=token
metadata=${IE_METADATA:-http://169.254.169.254/latest}
while sleep "${IE_NOTICE_INTERVAL_S:-5}"; do
  key=$(curl -sf -m 2 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$metadata/api/token") || continue
  # 404 until there is a notice.
  notice=$(curl -sf -m 2 -H "X-aws-ec2-metadata-token: $key" "$metadata/meta-data/spot/instance-action") || continue
  echo "notice: $notice"
  ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION --reason-message 'spot notice' \
    --deadline-remaining-seconds 110 && exit 0
done
