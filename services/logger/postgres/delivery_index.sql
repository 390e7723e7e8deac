-- Version 2: the index on deliveries has the channel too. It is built for days that exist already while the logger runs,
-- by later_indexes.py, which then drops the index that it replaces.
CREATE INDEX idx_delivery_channel ON ONLY message_logs (delivery, channel, id) WHERE delivery IS NOT NULL;
DO $$ BEGIN
    IF NOT EXISTS (SELECT 1 FROM message_days) THEN DROP INDEX idx_delivery; END IF;
END $$;
